"""Images copied between places: one engine under pull, push, load, save, copy and sync. Must not know what is in a
layer."""
