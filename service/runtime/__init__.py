"""The doing part: decode, crop, resize, run the network. Decides nothing about which variant or batch."""
