"""The addresses of the node. Pure.

All come from 198.18.0.0/15, which is reserved for tests of network devices: no real host has such an address, so that
nothing a pod does by mistake can reach one.
"""

from __future__ import annotations

NODE_ADDRESS = "198.18.254.1"
POD_RANGE = "198.18.0.0/22"
SERVICE_RANGE = "198.19.0.0/16"
API_SERVICE = "198.19.0.1"
DNS_SERVICE = "198.19.0.10"
API_PORT = 6443
"""Inside the node's network namespace only. On the host a free port of the loopback interface leads to it."""

ETCD_CLIENT = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
MAX_PODS = 250
CLUSTER_DOMAIN = "cluster.local"
