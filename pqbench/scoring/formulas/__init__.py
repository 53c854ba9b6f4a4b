"""The mathematics of metrics, without components: arrays in, numbers out."""
