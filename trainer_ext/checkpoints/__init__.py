"""Complete checkpoints and safetensors files."""
