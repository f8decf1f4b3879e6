"""Libraries of operations that are not compiled, for tests of who calls them with what."""

from types import SimpleNamespace

from ebm_cli.device import ahead


def uncompiled(monkeypatch):
    """From here on libraries are the traced operations themselves. Their identities, and of how many runs calls are."""
    made = SimpleNamespace(identities=[], calls=[])

    def plain(graph, tensors, identity, begins):
        begins()
        made.identities.append(identity)
        operations, facts = graph()

        def call(changing, lasting):
            made.calls.append(len(changing[0]) if changing[0].dim() else 0)
            return list(operations(*changing, *(tensor.detach() for tensor in lasting)))

        return SimpleNamespace(call=call, facts=facts)

    monkeypatch.setattr(ahead, "_library", plain)
    return made
