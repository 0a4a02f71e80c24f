"""What people ask of images: which there are, what each layer does, who put a path there, what differs. Returns
values and prints nothing. Must not decide again what the union has decided.
"""
