"""Model maintenance: adjust, optimise and update the models that are watched, from joined labels."""
