"""What ships the worker: image, docker-compose.yml, Kubernetes manifests, systemd unit; checked without any of them."""
