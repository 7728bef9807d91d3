"""The tensors of a checkpoint on their way into the model: unpacked where needed, and all accounted for."""
