-- name: CopyAuthors :copyfrom
INSERT INTO authors (name, bio) VALUES ($1, $2);

-- name: GetAuthors :batchone
SELECT * FROM authors WHERE name = $1;
