-- name: CreateAuthor :one
INSERT INTO authors (name, bio) VALUES ($1, $2) RETURNING *;

-- name: GetAuthor :one
SELECT * FROM authors WHERE name = $1;

-- name: ListAuthors :many
SELECT * FROM authors WHERE id >= $1 ORDER BY id LIMIT 10;

-- name: UpdateBio :execrows
UPDATE authors SET bio = $2 WHERE id = $1;
