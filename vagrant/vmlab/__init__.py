"""The test machines from outside: commands, traffic, faults on the way. No test framework in here."""
