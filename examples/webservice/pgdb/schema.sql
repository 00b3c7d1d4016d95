-- The tables of the example service. Whoever owns the database creates them: webservice -print-schema | psql app
-- The service logs in as a role that may use them and cannot change them. A Vault role that suits it:
--
--   CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
--   GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "{{name}}";

CREATE TABLE IF NOT EXISTS items (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name     text        NOT NULL CHECK (name <> ''),
  quantity integer     NOT NULL CHECK (quantity >= 0),
  created  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS accounts (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  balance bigint NOT NULL CHECK (balance >= 0)
);

CREATE TABLE IF NOT EXISTS transfers (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  from_account bigint      NOT NULL REFERENCES accounts,
  to_account   bigint      NOT NULL REFERENCES accounts,
  amount       bigint      NOT NULL CHECK (amount > 0),
  created      timestamptz NOT NULL DEFAULT now(),
  CHECK (from_account <> to_account)
);

INSERT INTO accounts (balance)
SELECT 1000000 FROM generate_series(1, 100)
WHERE NOT EXISTS (SELECT FROM accounts);
