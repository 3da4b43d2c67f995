"""Networks: the frozen backbone's two halves, the autoencoder, the denoiser, and what they are built of."""
