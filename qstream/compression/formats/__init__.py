"""Files of tensors: safetensors, npy and npz, as spans of their bytes."""
