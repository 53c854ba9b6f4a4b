"""The bundled workloads and nets from diffusers. How the bundled ones are made is in `training`."""
