"""The parts of the torture script: kills, damaged files, bad inputs, and what processes leave behind."""
