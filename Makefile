UV := .uv/bin/uv
lock:
	.uv/bin/uv pip compile -q --python-version 3.11 --group ml --no-emit-package torch --generate-hashes --custom-compile-command "make lock" -o docker/locks/ml.txt pyproject.toml
	.uv/bin/uv pip compile -q --python-version 3.11 --group orchestrator --generate-hashes --custom-compile-command "make lock" -o docker/locks/orchestrator.txt pyproject.toml
