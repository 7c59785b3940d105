"""Small programs that use modelvigil from outside."""
