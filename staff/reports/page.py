def render(results):
    raise NotImplementedError
