"""How a study is read, counted, drawn and told; :mod:`study_report` is the command."""
