"""The commands of ``fer``, one module each."""
