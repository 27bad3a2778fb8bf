"""What several SDKs and providers share: formats of requests and answers, headers, hosts, names of models."""
