"""What corrections share: how a compressed net's predictions stand to those of the full-precision net."""
