"""Any torch.distributed program on simulated ranks: torch's own DDP, FSDP2, DTensor or pipelines, unchanged.

A process group of ours stands in for gloo and NCCL (`group`, with `work` and `store`); what torch keeps once for a
process is swapped with the rank that runs (`state`, made of names that `private` checks); `recording` lets torch's own
tensor subclasses unwrap first; `refusals` says what cannot be simulated, and `running` puts it all around a run.
"""
