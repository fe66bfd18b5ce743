"""For authors of reporters: prove that a reporter keeps what it is given. Needs pytest and numpy.

`runcast.testing.contract.ReporterContract` is a test class to subclass.
"""
