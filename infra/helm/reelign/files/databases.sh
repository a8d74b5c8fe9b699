# A database and a user each, at the first start: MLflow and Airflow keep the version of their tables under the same name, and
# neither may read the other's. The image of Postgres sources this file.
psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres \
  --set=mlflow="${MLFLOW_DB_PASSWORD:?}" --set=airflow="${AIRFLOW_DB_PASSWORD:?}" <<'SQL'
CREATE USER mlflow PASSWORD :'mlflow';
CREATE USER airflow PASSWORD :'airflow';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE airflow OWNER airflow;
REVOKE CONNECT ON DATABASE mlflow, airflow, postgres FROM PUBLIC;
SQL
