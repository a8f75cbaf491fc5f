"""Simulated ranks, from the inside: one runs at a time, what they post meets, and virtual time moves on.

Read `simulation` (one run), `rank` (its two clocks), `matching` and `scheduler` (who meets, who runs), `recorder` with
`memory` (what torch does), and `clock` with `pricing` (when it all happens).
"""
