"""The modes of parallelism: each a transform of the model that one process trains, at one of five seams.

Read them in the order of the course, each a file, and see what a rank has for itself:

    mode        file          seam                                    each rank has of its own
    task        task.py       none: there is no model                 whole tasks
    data        data.py       parameter gradients                     a share of the batch
    server      server.py     `optimizer.step`                        that, or a share of the parameters to serve
    ZeRO        zero.py       `optimizer.step`, parameter gradients   and a shard of optimizer state, gradients, weights
    tensor      tensor.py     module boundaries                       columns or rows of every large matrix
    sequence    sequence.py   module boundaries                       and, between them, some of the tokens
    context     context.py    `attend`                                a part of every sequence
    pipeline    pipeline.py   `blocks`                                some consecutive blocks
    expert      expert.py     `dispatch`                              some of the experts
    local SGD   local_sgd.py  `optimizer.step`                        weights, until the next average

Beside each mode stands what it is made of: buckets.py, rows.py and agreement.py for data; families.py, flat.py,
part_gradients.py and zero3.py for ZeRO; placement.py, partial_sums.py and vocabulary.py for tensor; ring.py, ulysses.py
and blockwise.py for context; schedules.py, timetable.py, microbatches.py, stages.py, mail.py and zero_bubble.py for
pipeline; compression.py for local SGD; jobs.py and cleaning.py, which cleans a corpus, for task.

Then all at once: layout.py says which layouts are legal, axes.py makes their groups, compose.py stacks the modes in the
one right order (replicas.py is data parallelism in ZeRO's terms), step.py runs a training step of the result, whole.py
uses it as the whole model, gathering.py gives its weights back whole, inspection.py shows what was changed. And
reinforce.py: a model that learns from its own answers, which some ranks generate and others train on. Nothing is
imported here: `import llmlab` finds the public names where they live.
"""
