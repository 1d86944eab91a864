"""`meanstep verify`: the theory of docs/theory.md, measured. Claims live in theorems, noise and equivalences; `groups` lists them."""
