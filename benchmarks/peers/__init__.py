"""phiserve beside other people's servers: the same photographs, network, machine and load for all of them."""
