"""Real ranks, from the inside: started, given work, watched, ended.

Read `torch_engine` with `torch_ops` and `ledger` (what a rank does), `rank_process` (how it lives), `nanny`,
`launchers` and `pool` (how it is started), `watch` with `diagnosis` and `verdict` (what is said when it goes wrong).
"""
