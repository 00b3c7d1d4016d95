package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
)

// awsCommand is a signer that runs the aws command.
func awsCommand(ctx context.Context, endpoint, region, user string) (string, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", err
	}
	//nolint:gosec // host, port, region and user are this program's configuration
	command := exec.CommandContext(ctx, "aws", "rds", "generate-db-auth-token",
		"--hostname", host, "--port", port, "--region", region, "--username", user)
	token, err := command.Output()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		return "", fmt.Errorf("aws rds generate-db-auth-token: %w: %s", err, bytes.TrimSpace(failed.Stderr))
	}
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(token)), nil
}
