"""What learns: pure functions on arrays, state in, state out; below the modules, whose states embed what is kept here.

Each learner is a module of its own, imported where it is used: ``from qstream.learn import hedge``.
"""

from qstream.errors import LearnError

__all__ = ["LearnError"]
