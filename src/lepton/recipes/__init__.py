"""Complete applications, each in a folder of the same four files: data, model, config, main."""
