"""Registries: pull and push after the OCI distribution-spec, on the protocols of ``lamina.source.protocols``.

``http`` moves bytes and can be stopped, ``auth`` holds tokens, ``client`` is one registry host, ``repository`` the
bundle of ``read``, ``write``, ``delete`` and ``list`` over one repository and its mirrors.
"""
