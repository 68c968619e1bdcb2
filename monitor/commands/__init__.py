"""Bodies of commands that are more than a call: what they do with broker and database, without a word on a terminal."""
