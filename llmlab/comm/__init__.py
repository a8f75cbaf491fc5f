"""How ranks run and talk: four rooms.

Here is what both engines share, each thing said once: `group` and `mesh` (who talks), `call` (what one operation is),
`checks` and `reports` (what is refused, in which words), `where`, `lines`, `seeding`, `copying`, `trace`, `errors`; on
top of it `autograd` and `collectives/`. `simulator` with `simulated/` runs ranks on a virtual clock in this process,
`processes` with `launched/` runs them as processes, which talk over torch.distributed: gloo, NCCL, or `shared/`.
"""
