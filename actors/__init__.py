"""One file per process role, the shell that runs them and the supervisor that keeps them alive."""
