"""What students exchange, as the broker handles it: judged, read back, sealed, told.

judging.py    grades, verdicts, cleaned feedback, what a revision did
groups.py     the rollouts and feedback of open groups, read back and kept by hash; from a full step to its batch
batches.py    a sealed batch on disk: written once, or adopted
news.py       the events that people see
"""
