"""`meanstep verify`: the theory of docs/theory.md, measured. Claims live in the modules that `groups` lists."""
