"""What runs inside the cluster: the bare floor, and the load with its measurements. Mounted from a ConfigMap."""
