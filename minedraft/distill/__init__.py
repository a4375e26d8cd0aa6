"""How to make a draft model for a target: the target writes, a few of its own layers learn to write like it.

`corpus` has the target write answers to `prompts`; `teacher` reads them again and keeps what the target thought at
each token; `vocabulary` picks the frequent tokens; `student` is the draft model; `training` fits it; `trial` measures
it in the real services; `recipe` does one after the other. Needs the `engine` extra. All is files in one folder, and
every stage goes on where it stopped.
"""
