"""Images from Dockerfiles: parse, plan and solve. Steps that copy files write their layer straight from the context;
steps that run programs use a sandbox. Must not know the command line or a terminal.
"""
