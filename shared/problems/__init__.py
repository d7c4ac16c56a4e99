"""Problem sets: what they hold, how they are loaded or generated, and how a problem is put to a model.

Start at `loading.load_problem_set`; `problem` has the types, `formats` the prompts and the grading.
"""
