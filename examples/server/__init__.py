"""A model server that publishes its predictions, and takes what modelvigil advises."""
