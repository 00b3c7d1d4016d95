-- name: CreateAuthor :execlastid
INSERT INTO authors (name, bio) VALUES (?, ?);

-- name: GetAuthor :one
SELECT * FROM authors WHERE name = ?;

-- name: ListAuthors :many
SELECT * FROM authors WHERE id >= ? ORDER BY id LIMIT 10;

-- name: UpdateBio :execrows
UPDATE authors SET bio = ? WHERE id = ?;
