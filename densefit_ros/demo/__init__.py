"""The demo: a camera process, the node and a recorder, over DDS on this machine, and a report of what came out."""
