"""What the hub's client says of a failure, without the token that the hub was shown."""


def told_by_hub(error: Exception) -> str:
    """The message of an error of huggingface_hub, for messages of ours, which are printed and kept in a run's files.

    It holds what the hub answered, and a hub, or a proxy before it, may answer with what it was sent.
    """
    # Here, as not everything that reads problems has the client installed.
    from huggingface_hub import get_token

    token = get_token()
    return str(error).replace(token, "[token]") if token else str(error)
