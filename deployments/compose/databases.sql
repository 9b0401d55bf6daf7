-- Prefect's database and that of PyBak's catalog, each with a role that has no other rights.
-- The image of PostgreSQL gives this file to psql when it starts on an empty volume.
\getenv prefect PREFECT_DB_PASSWORD
\getenv pybak PYBAK_DB_PASSWORD

CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE prefect OWNER prefect;
REVOKE ALL ON DATABASE prefect FROM PUBLIC;

CREATE ROLE pybak LOGIN PASSWORD :'pybak';
CREATE DATABASE pybak OWNER pybak;
REVOKE ALL ON DATABASE pybak FROM PUBLIC;
