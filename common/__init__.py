"""What both sides must agree on. Imports no other package of this project, no Flower and no network."""
