"""Training a small generator on a folder of pictures: a variational autoencoder or a rectified flow."""
