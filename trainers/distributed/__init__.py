"""Several processes and devices: process group, launcher, device."""
