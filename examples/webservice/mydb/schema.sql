-- The tables of the example service. Whoever owns the database creates them:
-- webservice -db mysql -print-schema | mariadb app
-- The service logs in as a user who may use them and cannot change them. A Vault role that suits it:
--
--   CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
--   GRANT SELECT, INSERT, UPDATE ON app.* TO '{{name}}'@'%';

CREATE TABLE IF NOT EXISTS items (
  id       bigint AUTO_INCREMENT PRIMARY KEY,
  name     mediumtext  NOT NULL CHECK (name <> ''),
  quantity integer     NOT NULL CHECK (quantity >= 0),
  created  datetime(6) NOT NULL -- in UTC, which is the driver's default
);

CREATE TABLE IF NOT EXISTS accounts (
  id      bigint AUTO_INCREMENT PRIMARY KEY,
  balance bigint NOT NULL CHECK (balance >= 0)
);

CREATE TABLE IF NOT EXISTS transfers (
  id           bigint AUTO_INCREMENT PRIMARY KEY,
  from_account bigint      NOT NULL,
  to_account   bigint      NOT NULL,
  amount       bigint      NOT NULL CHECK (amount > 0),
  created      datetime(6) NOT NULL,
  FOREIGN KEY (from_account) REFERENCES accounts (id),
  FOREIGN KEY (to_account) REFERENCES accounts (id),
  CHECK (from_account <> to_account)
);

INSERT INTO accounts (balance)
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100)
SELECT 1000000 FROM numbers
WHERE NOT EXISTS (SELECT 1 FROM accounts);
