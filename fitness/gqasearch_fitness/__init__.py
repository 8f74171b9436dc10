"""The built-in fitness functions: a plug-in package like anyone else's, one function per file."""
